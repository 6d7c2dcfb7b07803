"""Reports as HTML pages: one file each, without scripts and without anything from the network.

Python computes from the frames what a page shows; the templates only lay it out and escape all of it.
"""
