"""The demonstration: a sample CSV through the sandbox gateway, with Prefect in a folder of its own."""
