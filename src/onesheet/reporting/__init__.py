"""A report of questions and answers: whether it is what its template asks for, and a page of it."""
