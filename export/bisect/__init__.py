"""`lfdeploy bisect`: where a file leaves its module."""
