"""Made-up schedules, near the times of day at which clocks are moved."""

from random import Random


def cron(random: Random) -> str:
    minute = random.choice(
        [
            "0",
            "15",
            "30",
            "45",
            "59",
            "0,30",
            "5,35,50",
            "10-20",
            "0-59/7",
            "*",
            "*/7",
            "*/20",
            "*/30",
            "7-57/10",
        ]
    )
    hour = random.choice(
        ["0", "1", "2", "3", "4", "22", "23", "1,2", "23,0", "0-3", "1-3/2", "*", "*/2", "*/5", "9-17", "12"]
    )
    day = random.choice(["*"] * 6 + ["1", "15", "25-31", "*/2", "*/10", "1-7", "8,24-31/3"])
    month = random.choice(["*"] * 6 + ["3,4,10,11", "mar-may", "*/2", "OCT"])
    weekday = random.choice(
        ["*"] * 6 + ["0", "7", "sun", "6,0", "1-5", "Mon-Fri", "5-7", "*/2", "sat,sun", "1-7/2"]
    )
    return f"{minute} {hour} {day} {month} {weekday}"


def on_calendar(random: Random) -> str:
    if random.random() < 0.05:
        return random.choice(
            ["minutely", "hourly", "daily", "weekly", "monthly", "Hourly", "quarterly", "yearly"]
        )
    minute = random.choice(
        [
            "0",
            "00",
            "15",
            "30",
            "45",
            "59",
            "0,30",
            "5,35,50",
            "10..20",
            "*",
            "0/7",
            "0/20",
            "30/15",
            "7..57/10",
        ]
    )
    hour = random.choice(
        [
            "0",
            "1",
            "02",
            "3",
            "4",
            "22",
            "23",
            "1,2",
            "0,23",
            "0..3",
            "1..3/2",
            "*",
            "0/2",
            "1/5",
            "9..17",
            "12",
        ]
    )
    second = random.choice([""] * 4 + [":0", ":30", ":0/20", ":59", ":5,10", ":*", ":0..2"])
    date = random.choice(
        [""] * 5
        + [
            "*-*-*",
            "*-*-1..7",
            "*-*~1",
            "*-*~7/1",
            "*-*~5/2",
            "*-*~1..9/4",
            "3,4,10,11-*",
            "*-*-1/2",
            "*-*-25..31",
        ]
        + ["*-3..5-*", "*-1/2-*", "2026..2031-*-*", "2026/2-*-*", "*-10~1..7", "*-*-31"]
    )
    weekday = random.choice(
        [""] * 5 + ["Sun", "Sat,Sun", "Mon..Fri", "mon-fri", "Fri..Sun", "Sunday", "Mon,Wed..Fri,"]
    )
    return " ".join(filter(None, (weekday, date, f"{hour}:{minute}{second}")))
