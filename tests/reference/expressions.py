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
            "0..59/7",
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
            "1..23/5",
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


def uneven(random: Random) -> str:
    """OnCalendar with steps without an end, most of which miss the end of the month, the day, the hour or the
    minute."""

    def step(first: int, last: int) -> str:
        begin = random.randrange(first, first + 4)
        return f"{begin}/{random.randrange(1, min(last - begin, 31))}"

    second = random.choice(["", ":0", ":30", f":{step(0, 59)}"])
    minute = random.choice(["0", "*", "30,59", step(0, 59), f"{step(0, 59)},{step(5, 59)}"])
    hour = random.choice(["0", "*", "22,0", "0,23", step(0, 23), f"3,{step(0, 23)}"])
    from_end = random.choice(["28/26", "27/4", "12/5", "1"])
    days = ["", "", f"*-*-{step(1, 31)}", f"*-*~{from_end}", "*-12,1-*", "2026,2028-*-*", "*-*-1,31"]
    date = random.choice(days)
    weekday = random.choice(["", "", "", "Mon..Fri", "Sat,Sun"])
    return " ".join(filter(None, (weekday, date, f"{hour}:{minute}{second}")))
