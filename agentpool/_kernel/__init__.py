"""The pool: agents, slots, waits, inboxes, joins. `docs/design.md` tells what each file owns."""
