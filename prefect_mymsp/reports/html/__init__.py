"""Reports as HTML pages: one file each, without scripts and without anything from the network.

Python computes the values of a page from the frames; the templates lay them out and escape them.
"""
