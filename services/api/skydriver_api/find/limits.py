"""What one search may ask for, in words for its description."""

from skydriver_api.find.compile import MAX_CONDITIONS, MAX_EXPRESSION_CHARS, MAX_EXPRESSIONS, MAX_PARAMETERS
from skydriver_api.find.filters import MAX_PARTS, MAX_PATH_LENGTH, MAX_PATH_PARTS
from skydriver_api.find.literals import MAX_DEPTH, MAX_ELEMENTS
from skydriver_api.find.regex import MAX_REGEX

__all__ = ["LIMITS"]

LIMITS = (
    f"Limits of a filter; 400 names the one that was exceeded. Operators and values: {MAX_DEPTH} levels deep. An array:"
    f" {MAX_ELEMENTS} elements. A path: {MAX_PATH_PARTS} parts, {MAX_PATH_LENGTH} characters. The whole filter: {MAX_PARTS} fields,"
    f" operators and filters, {MAX_CONDITIONS} conditions, {MAX_PARAMETERS} different names and values. Regular expressions:"
    f" {MAX_REGEX} characters each, repetitions nested three deep; {MAX_EXPRESSIONS} different ones of {MAX_EXPRESSION_CHARS}"
    " characters together. A search that takes too long is stopped with 400."
)
