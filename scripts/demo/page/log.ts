/** The account of what happened, newest first, which is also what a screen reader reads out. */
const list = document.querySelector('#log') as HTMLElement
const most = 30

export function tell(text: string): void {
  const entry = document.createElement('li')
  const time = document.createElement('time')
  time.textContent = new Date().toLocaleTimeString(undefined, { hour12: false })
  entry.append(time, ' ', text)
  list.prepend(entry)
  if (list.children.length > most) list.lastElementChild?.remove()
}
