"""The recipes that fill docs/: each measures or draws something, and writes results that the documents
are made from. The Makefile calls them.
"""
