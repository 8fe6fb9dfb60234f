"""What a strategy would have done on a recorded stream: the live loop's steps on stores in memory and a manual clock."""
