"""What a request's text gives away: found on this machine, told by its kind, never by its words."""
