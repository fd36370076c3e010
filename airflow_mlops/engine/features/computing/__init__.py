"""From sealed partitions to the rows of the feature views, and from what they were computed."""
