-- No service has ever noted which events it consumed: consumers look at what is so now, and commands have their recorded replies.
DROP TABLE consumed_events;
