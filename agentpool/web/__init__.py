"""The live page of a pool: what its agents do, in a browser, on this machine."""
