"""`lfdeploy serve --workers N`: one address, several processes.

The first process owns the address. It hands each connection to one process after the other, itself among
them, through a channel that nobody else reaches: no second port, no file. All of them answer `/v1` and `/v2`;
the page, `/metrics` and the replacement of artifacts are the first one's, and the others pass on what is
asked of them there.
"""
