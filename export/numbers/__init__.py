"""Numbers about answers, and one number held to one bound: what all rooms of export share."""
