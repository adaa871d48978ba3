"""What is attributed to: training records and queries, checked, identified and versioned."""
