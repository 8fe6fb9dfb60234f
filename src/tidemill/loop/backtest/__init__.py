"""What a strategy would have done on a recorded stream: the live loop's steps on stores in memory and a manual clock."""

from tidemill.loop.backtest.backtest import backtest
from tidemill.loop.backtest.compare import Comparison
from tidemill.loop.backtest.result import BacktestResult

__all__ = ["BacktestResult", "Comparison", "backtest"]
