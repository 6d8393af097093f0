"""The core: Transform, Fold, Implicit, Axes, combinators and executors. Its names are `ws.chain`, `ws.plan`, ..."""
