"""Bulk enrolment: the line format, where a ZIP lies, and the job that works through the lines."""
