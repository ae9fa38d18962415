-- The throttle of launches has a table of its own (0040); nothing has ever used this one.
DROP TABLE throttles;
