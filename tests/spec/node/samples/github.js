// What a branch is at, who pushed to it, and which files were touched.
export default function reduce(state, event) {
  if (event.headers["x-github-event"] !== "push") return state;
  state ??= { pushes: 0, authors: {}, files: [] };
  const push = event.body;
  state.pushes += 1;
  state.head = push.after;
  for (const commit of push.commits) {
    const author = commit.author.username;
    state.authors[author] = (state.authors[author] ?? 0) + 1;
    const files = [...commit.added, ...commit.removed, ...commit.modified];
    state.files = [...new Set([...state.files, ...files])].sort();
  }
  state.subject = push.commits[0].message.split("\n")[0];
  return state;
}
