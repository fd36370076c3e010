"""Work on the past: plan it, price it, have it approved, execute it in bounds, and verify what came of it."""
