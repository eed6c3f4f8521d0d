"""From a grouped graph to loop nests, machine code and the native call."""
