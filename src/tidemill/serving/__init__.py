"""DATA PLANE: validate, route, batch, predict, decide, record, reply. It never imports the project file."""
