"""Who asks: from the server's HTTP request to every rank."""
