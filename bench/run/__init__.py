"""One cell from start to finish, and what runs many of them."""
