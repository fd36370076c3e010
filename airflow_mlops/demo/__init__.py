"""The flight_delay example on a laptop: the data, the stack, and the story that `make demo` tells."""
