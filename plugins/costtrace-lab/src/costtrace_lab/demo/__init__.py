"""The demonstration: a real server, real traffic from three tenants, and the bill. The tests use the same parts."""
