"""From shares to rows: what is summed up by request and by window until it is booked."""
