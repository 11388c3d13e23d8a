"""How often clicks where nothing bleeds are accepted on your own CT, and the threshold for fewer.

A bundle's score threshold was chosen on the data it was measured on. Other scanners make other
noise and other brightness beside bone, and the share of accepted clicks changes with them. Heads
without hemorrhage are enough to measure it: no masks are needed.
"""
