"""Parity: the graphs compute what torch computes, or what the graphs that they were made from compute."""
