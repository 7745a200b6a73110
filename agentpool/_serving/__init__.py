"""What serving over HTTP needs, whoever is served: hypercorn on trio, bounded, and who may come in."""
