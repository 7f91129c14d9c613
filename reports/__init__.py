"""An ``AuditResult`` as something to read: one page, a terminal summary, an index, figures for a paper.

Nothing here reads weights or imports torch; every function takes the result and gives text back.
"""
