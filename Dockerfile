# Both programs, and nothing else: they are static and need no shell.
FROM scratch
COPY bin/fairlead-controller bin/fairlead-speaker /
