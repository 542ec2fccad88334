//! Child subreaper: keeps exit statuses and caps log files while managers restart
