"""Who may use which feature, what changes, who reads it, what it costs."""
