"""`costtrace doctor`: every setting with its source, and what is wrong here."""
