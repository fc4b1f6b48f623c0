"""Make a checkpoint of few bits from one of many, in the layout that an exporter would write."""
