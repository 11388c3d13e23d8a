"""``samihs-infer --clicks``: many clicks in many studies, into one folder that can be resumed."""
