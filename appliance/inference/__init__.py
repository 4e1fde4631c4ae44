"""Native models behind the line, each in a child process that may die without the line noticing
more than a missing opinion. `client` is what the line holds; `worker` is the only importer of
llama_cpp."""
