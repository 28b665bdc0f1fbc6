"""The API: commands that become events, and read models in the database to answer from."""
