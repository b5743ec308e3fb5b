"""What the scripts do beside their main task: --export, --ask, --rescore, --history, rating. May import every room of the task."""
