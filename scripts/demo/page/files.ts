/** Files come in by picker or drop. */
const picker = document.querySelector('#picker') as HTMLInputElement
const drop = document.querySelector('#drop') as HTMLElement

export interface FileListener {
  files(files: readonly File[]): void
  folders(): void
}

export function listenForFiles(listener: FileListener): void {
  picker.addEventListener('change', () => {
    listener.files([...(picker.files ?? [])])
    // Choosing the same file again is a change too.
    picker.value = ''
  })
  addEventListener('dragover', (event) => {
    if (!isOurs(event)) return
    // Also beside the zone: a file dropped there would replace the page.
    event.preventDefault()
    drop.classList.add('over')
  })
  addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) drop.classList.remove('over')
  })
  addEventListener('drop', (event) => {
    if (!isOurs(event)) return
    event.preventDefault()
    drop.classList.remove('over')
    const items = [...(event.dataTransfer?.items ?? [])].filter(({ kind }) => kind === 'file')
    const files = items.filter((item) => !isFolder(item)).flatMap((item) => item.getAsFile() ?? [])
    listener.files(files)
    if (items.some(isFolder)) listener.folders()
  })
}

export function openPicker(): void {
  picker.click()
}

/** Uppy's Dashboard takes by itself what is dropped on it. */
function isOurs({ dataTransfer, target }: DragEvent): boolean {
  return dataTransfer?.types.includes('Files') === true && !(target as Element).closest('.uppy-Dashboard')
}

function isFolder(item: DataTransferItem): boolean {
  return item.webkitGetAsEntry?.()?.isDirectory === true
}
