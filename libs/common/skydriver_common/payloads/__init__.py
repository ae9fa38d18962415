"""Bodies as they come from outside, over REST or the bus: read once, checked strictly, refused with every problem at once.

Admission rule: what both doors must judge alike. What only one route takes lies with that route.
"""
