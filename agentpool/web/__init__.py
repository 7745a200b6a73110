"""The live page: what a run does, shown in a browser; and the same page as a file.

`_page` makes the document and needs nothing that is not installed with agentpool.
"""
