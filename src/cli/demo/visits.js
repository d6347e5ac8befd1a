// One page's visits. `order` is another number when the same events are applied in another order.
export default function reduce(state, event) {
  const { n, amount } = event.body;
  state ??= { visits: 0, seconds: 0, order: 0 };
  state.visits += 1;
  state.seconds += amount;
  state.order = (state.order * 31 + n) % 1000003;
  return state;
}
