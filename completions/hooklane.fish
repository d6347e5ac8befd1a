complete --keep-order --exclusive --command hooklane --arguments "(HOOKLANE_COMPLETE=fish hooklane -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
