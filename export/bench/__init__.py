"""`lfdeploy bench`: what is measured, in interleaved rounds, and how it is told."""
