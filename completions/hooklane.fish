# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_hooklane_global_optspecs
    string join \n url= key-file= o/output= q/quiet y/yes confirm= no-input color= timeout= data= h/help V/version
end

function __fish_hooklane_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_hooklane_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_hooklane_using_subcommand
    set -l cmd (__fish_hooklane_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c hooklane -n "__fish_hooklane_needs_command" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_needs_command" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_needs_command" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_needs_command" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_needs_command" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_needs_command" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_needs_command" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_needs_command" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_needs_command" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_needs_command" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_needs_command" -s V -l version -d 'Print version'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "demo" -d 'See it work: a node with traffic and the dashboard; nothing to set up, nothing left behind'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "doctor" -d 'Look at everything a node needs, and say what to do about what is wrong'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "serve" -d 'Run a node: receive webhooks, keep them, process them in order'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "send" -d 'Post test events to a hook and follow them until they are folded'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "status" -d 'Say whether all is well: whose fault it is, what it holds up, whether more lanes help'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "top" -d 'Watch the lanes live: depth, latency, whose fault it is; and operate them'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "hooks" -d 'Make, change, try and delete receivers of webhooks'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "events" -d 'See events: list, show and follow them'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "state" -d 'Read the state of a stream, or fold it again'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "streams" -d 'See streams and their cursors, let go what is set aside'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "lanes" -d 'See how the lanes are doing, and operate them live'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "why" -d 'Say why a stream is not at its head, what ends it, and what helps'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "audit" -d 'See who changed what, when and why'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "keys" -d 'Make, list and revoke access keys'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "namespaces" -d 'Make, list and delete groups of hooks with lanes of their own'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "migrate" -d 'Move everything from a data directory to Postgres: events, states, positions, hooks, keys'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "completions" -d 'Write shell completions'
complete -c hooklane -n "__fish_hooklane_needs_command" -f -a "man" -d 'Write the manual page'
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l rate -d 'Events a second, without the spikes' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l customers -d 'Customers: each one is a stream' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l for -d 'How long [default: until q; 20s without a terminal]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l keep -d 'Leave the data directory behind, and say where it is'
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l ascii -d 'A dashboard in nothing but ASCII'
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -l database -d 'The database that `serve` would use, where no daemon runs [default: a file in the data directory]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -l redis -d 'The Redis that `serve` would use, where no daemon runs [default: memory]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -l listen -d 'Where `serve` would listen, where no daemon runs' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l listen -d 'Where to listen' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l database -d 'What keeps events and states: a path, or postgres://USER:PASSWORD@HOST/NAME, which any number of nodes may share [default: a file in the data directory]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l redis -d 'What nodes that share a database tell each other of work through: redis://USER:PASSWORD@HOST [default: memory, for one node]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l lanes -d 'Lanes of the default namespace; counts at the first start only' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l node -d 'What this node is called [default: the host\'s name]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l grace -d 'How long running turns get at the end' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l log -d 'How the log is written: auto is short on a terminal and json elsewhere' -r -f -a "auto\t'Short lines on a terminal, JSON elsewhere'
short\t'Short lines'
json\t'One JSON object a line'"
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l data -d 'The body: a text, @FILE, or - for stdin' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l header -d 'A header; may be given often' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l count -d 'How many times' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l rate -d 'How many a second at most [default: no limit]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l no-wait -d 'Do not wait until they are folded'
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand send" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l namespace -d 'Which namespace' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l wait -d 'Wait until all is well, for so long at most' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l watch -d 'Show it again every second; Ctrl-C ends'
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l ours -d 'Take what senders and destinations do for well'
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l namespace -d 'Which namespace' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l interval -d 'How often it is drawn anew' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l once -d 'Print one picture and end'
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l ascii -d 'Nothing but ASCII; so it is too where the locale has no UTF-8'
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l read-only -d 'Change nothing, whoever looks'
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -f -a "create" -d 'Make hooks that take webhooks at once'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -f -a "apply" -d 'Make hooks and namespaces as a TOML file says; the same file twice changes nothing'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -f -a "list" -d 'List hooks'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -f -a "show" -d 'Show how a hook is configured'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -f -a "edit" -d 'Change a hook; what no flag names stays as it is'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -f -a "test" -d 'Run a hook\'s reducer on one event; nothing is stored'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -f -a "delete" -d 'Delete a hook with its events and states'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -f -a "pause" -d 'Stop the turns of a hook\'s streams; events are still accepted'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and not __fish_seen_subcommand_from create apply list show edit test delete pause resume" -f -a "resume" -d 'Let the streams of a paused hook go on'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l namespace -d 'The namespace whose lanes its streams use [default: default]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l order-by -d 'What divides its events into streams: body:/JSON/POINTER, header:NAME, or none for one stream' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l unordered -d 'Events without an ordering key: refuse (422), or keep in the hook\'s own stream' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l reduce -d 'How events become a state: latest, merge, patch, append:N, count or a FILE.js' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l on-error -d 'An event that cannot be folded: hold its stream, or skip it to the dead letters' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l debounce -d 'Gather events into one turn: until it is quiet for QUIET, for LONGEST at most [default: 10 times QUIET]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l body-max -d 'The largest body it accepts, such as 64KiB [default: 1MiB]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -l dry-run -d 'Show what would change, change nothing'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -l prune -d 'Also delete the hooks that are not in the file, with their events and states'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from apply" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -l namespace -d 'Only those of one namespace' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -l wide -d 'Every column and every id whole, also where the terminal is too narrow for them'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l namespace -d 'The namespace whose lanes its streams use [default: default]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l order-by -d 'What divides its events into streams: body:/JSON/POINTER, header:NAME, or none for one stream' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l unordered -d 'Events without an ordering key: refuse (422), or keep in the hook\'s own stream' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l reduce -d 'How events become a state: latest, merge, patch, append:N, count or a FILE.js' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l on-error -d 'An event that cannot be folded: hold its stream, or skip it to the dead letters' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l debounce -d 'Gather events into one turn: until it is quiet for QUIET, for LONGEST at most [default: 10 times QUIET]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l body-max -d 'The largest body it accepts, such as 64KiB [default: 1MiB]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l no-reduce -d 'Fold no longer, only store; the states are gone'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l no-debounce -d 'Gather events no longer'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l dry-run -d 'Show what would change, change nothing'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from edit" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -l event -d 'The event\'s body, - for stdin' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -l header -d 'A header of the event; may be given often' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -l state -d 'The state before it, as JSON [default: none, as for the first event]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from test" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from delete" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -l reason -d 'Why, for the others' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from pause" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -l reason -d 'Why, for the others' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand hooks; and __fish_seen_subcommand_from resume" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -f -a "list" -d 'List events, newest first'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -f -a "show" -d 'Show one event and what became of it'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and not __fish_seen_subcommand_from list show tail" -f -a "tail" -d 'Follow events as they arrive; Ctrl-C ends'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l hook -d 'Only those of one hook' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l stream -d 'Only those of one stream, HOOK or HOOK/KEY' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l since -d 'Only those received in this time' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l limit -d 'How many at most' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l after -d 'Older ones than this event, where an earlier list ended' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l dead -d 'Only the dead letters: events that were skipped, each with its reason'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l wide -d 'Every column and every id whole, also where the terminal is too narrow for them'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -l body -d 'Write its body to stdout, byte for byte, and nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -l headers -d 'Show its headers too'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -l hook -d 'Only those of one hook' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -l stream -d 'Only those of one stream, HOOK or HOOK/KEY' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand events; and __fish_seen_subcommand_from tail" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -f -a "show" -d 'Print the folded JSON of a stream to stdout, its position and time to stderr'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and not __fish_seen_subcommand_from show rebuild" -f -a "rebuild" -d 'Fold the events of a hook or a stream again, from the first, with today\'s reducer'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l to-seq -d 'Print the state as it was at this event, by today\'s reducer; changes nothing' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l all -d 'Every hook, one after the other'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l check -d 'Only compare, and say which streams would get another state'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l dry-run -d 'Say how much it is and stop'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l no-wait -d 'Return when it has begun'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand state; and __fish_seen_subcommand_from rebuild" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -f -a "list" -d 'List cursors, a row each: those whose events wait longest first'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -f -a "show" -d 'Show one stream and what its handlers\' cursors do'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -f -a "retry" -d 'Let cursors that are set aside try again now'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -f -a "skip" -d 'Put the event that a cursor needs next into the dead letters and go on behind it'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -f -a "hold" -d 'Set cursors of a stream aside by hand, until they are released'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and not __fish_seen_subcommand_from list show retry skip hold release" -f -a "release" -d 'Let held cursors of a stream flow again'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l hook -d 'Only those of one hook' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l condition -d 'Only those in one condition' -r -f -a "flowing\t''
waiting\t''
held\t''"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l sort -d 'oldest: what waits longest first, and what waits for nothing last; created: by the age of the stream, in pages [default: oldest, or created with --after]' -r -f -a "oldest\t''
created\t''"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l limit -d 'How many at most' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l after -d 'Where an earlier list ended' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l wide -d 'Every column and every id whole, also where the terminal is too narrow for them'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -l handler -d 'One handler [default: all that are set aside]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from retry" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -l event -d 'The event, which must be the next one' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -l handler -d 'One handler [default: reduce]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from skip" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -l handler -d 'One handler [default: all]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -l reason -d 'Why, for the others' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from hold" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -l handler -d 'One handler [default: all]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand streams; and __fish_seen_subcommand_from release" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -f -a "list" -d 'List the lanes of a namespace, a row each'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -f -a "resize" -d 'Change the number of lanes while events keep flowing in order'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -f -a "drain" -d 'Process what waits now, keep what comes later until resume'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -f -a "pause" -d 'Stop the turns of lanes; events are still accepted'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -f -a "resume" -d 'Let lanes go on, after a pause or a drain'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -f -a "rebuild" -d 'Wipe the hints and make them again from the database, while everything goes on'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -f -a "of" -d 'Say where a stream belongs: its slot and its lane, stored or not'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and not __fish_seen_subcommand_from list resize drain pause resume rebuild of show" -f -a "show" -d 'Show one lane and its cursors: those set aside first, then those that wait longest'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -l namespace -d 'Which namespace' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -l watch -d 'Show them again every second; Ctrl-C ends'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -l wide -d 'Every column and every id whole, also where the terminal is too narrow for them'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l namespace -d 'Which namespace' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l expect -d 'How many lanes there must be now, or nothing is done' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l within -d 'How long to wait for it, such as 5m [default: for ever]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l reason -d 'Why, for the others' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l dry-run -d 'Show what it would mean and stop'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l drain-first -d 'Let the old lanes finish what waits now before the new ones begin'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l wait -d 'Return when it is done [default]'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l no-wait -d 'Return when it has begun'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resize" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l namespace -d 'Which namespace' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l reason -d 'Why, for the others' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l within -d 'How long to wait for it, such as 5m [default: for ever]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l all -d 'Every lane of the namespace'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l wait -d 'Return when it is done'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from drain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -l namespace -d 'Which namespace' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -l reason -d 'Why, for the others' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -l all -d 'Every lane of the namespace'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from pause" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -l namespace -d 'Which namespace' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -l reason -d 'Why, for the others' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -l all -d 'Every lane of the namespace'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from resume" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -l namespace -d 'Which namespace [default: all]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -l reason -d 'Why, for the others' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -l dry-run -d 'Only look what there would be to find'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from rebuild" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -l lanes -d 'Also where it would be with so many lanes' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from of" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -l namespace -d 'Which namespace' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -l top -d 'How many cursors at most' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand lanes; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -l handler -d 'Only one handler' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -l event -d 'Also where this event of it is' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand why" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and not __fish_seen_subcommand_from list" -f -a "list" -d 'List what operators changed, the newest first'
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l since -d 'Only what was done in this time' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l subject -d 'Only what was done to this hook, stream, lane, namespace or key; a hook has its streams with it' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l limit -d 'How many at most' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l after -d 'Where an earlier list ended' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l wide -d 'Every column and every id whole, also where the terminal is too narrow for them'
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand audit; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -f -a "create" -d 'Make an access key; it is shown once, on stdout and alone'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -f -a "list" -d 'List access keys; their text is stored nowhere'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -f -a "revoke" -d 'End a key for good; what uses it is refused at once'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l type -d 'What it may do: write posts events, read reads states and events, admin does everything' -r -f -a "write\t'Post events'
read\t'Read states and events'
admin\t'Everything'"
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l hook -d 'The hook it is for' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l name -d 'What people call it' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l expires -d 'How long it lives, such as 90d [default: for ever]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l rate -d 'How many requests it may send to one node, such as 100/s or 600/m; more are answered 429 [default: any number]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l burst -d 'How many of them may come at once [default: the number of the rate]' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l out -d 'Write it to a new file that only you can read, instead of to stdout' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l all-hooks -d 'It is for every hook, also those made later'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -l stale -d 'Only good keys that were not used for 90 days'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -l wide -d 'Every column and every id whole, also where the terminal is too narrow for them'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand keys; and __fish_seen_subcommand_from revoke" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -f -a "create" -d 'Make a namespace, so that its hooks never wait for those of others'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -f -a "list" -d 'List namespaces'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and not __fish_seen_subcommand_from create list delete" -f -a "delete" -d 'Delete a namespace that has no hooks'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -l lanes -d 'How many lanes it has' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -l wide -d 'Every column and every id whole, also where the terminal is too narrow for them'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand namespaces; and __fish_seen_subcommand_from delete" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -l from -d 'The data directory, as a path or as sqlite:PATH' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -l to -d 'The Postgres server' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -l dry-run -d 'Say how much it is and stop'
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand migrate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -l dir -d 'Write those of bash, zsh and fish into this directory' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -l dir -d 'Write the pages of all commands into this directory' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -l data -d 'Data directory: socket, lock, database, log [default: $XDG_DATA_HOME/hooklane]' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -l url -d 'Ask a daemon elsewhere, such as http://10.0.0.5:8420; needs a key' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -l key-file -d 'Read the access key from this file; without it the environment\'s HOOKLANE_KEY is the key' -r -F
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -s o -l output -d 'How data is written to stdout' -r -f -a "table\t'For people'
json\t'One JSON object'
jsonl\t'One JSON object a line'
names\t'One id a line, for xargs'"
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -l confirm -d 'With --yes, what a severe action is about: the name that would be typed' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal that has it, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -l timeout -d 'How long to wait for one answer' -r
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -s q -l quiet -d 'Print errors and the data that was asked for, nothing else'
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -s y -l yes -d 'Answer questions with yes; checks are never skipped'
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -l no-input -d 'Never ask: fail and name the flag that answers'
complete -c hooklane -n "__fish_hooklane_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
