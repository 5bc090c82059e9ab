"""`--preflight`: proves on the user's own machine that a run would work, and says how long."""
