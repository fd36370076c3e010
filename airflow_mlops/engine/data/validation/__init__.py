"""Great Expectations on a batch: one suite, one pass, and no raw values in the answer.

Three things differ from what the library does by itself.

*Unknown is not failed.* A check that could not be computed (a column that is not there, a bound of another type) is
*unknown*, not a failure of the data, and it blocks whatever its severity. Of values that fail, only counts leave
this module, and ids of rows when they are asked for.

*SQL computes.* Parquet files are queried by DuckDB, tables by their own database, and no samples of failing values
are computed. Only expectations that SQL would answer otherwise than pandas, or not at all (regular expressions,
types, order of rows, a user's own), run on pandas, on the columns they need.

*One meaning on every engine.* Where pandas and SQL differ, this holds:

* a NaN is missing, as a null is: it never fails a bound, it fails ``ExpectColumnValuesToNotBeNull``;
* infinities are values; an aggregate that becomes infinite or undefined by them is reported as such;
* true and false count as 1 and 0;
* a text that is compared with a column of times is a time, in UTC unless it says otherwise: JSON has no other way
  to write one. Text that is no time makes the check unknown;
* other values that cannot be compared with a column, such as a number with text, make the check unknown, or are
  never in the column: SQL would convert the column's values, and a suite would pass because ids look like numbers;
* ``!=`` and ``NOT IN`` in a row condition keep rows whose value is null;
* quantiles are values that occur in the column (the nearest rank from below), the median is the mean of the two in
  the middle, the standard deviation is that of a sample.
"""

from airflow_mlops.engine.data.validation.evaluate import EngineName, validate, validate_table
from airflow_mlops.engine.data.validation.results import enforce, explain
from airflow_mlops.engine.data.validation.suites import Suite, load_suite

__all__ = ["EngineName", "Suite", "enforce", "explain", "load_suite", "validate", "validate_table"]
