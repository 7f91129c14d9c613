"""The auditor's exam: models whose truth is known, the verdicts on them, and what rival metrics say of them."""
