"""What an operator does with the database: roles and the launch throttle."""
